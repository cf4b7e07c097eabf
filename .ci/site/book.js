// The sidebar shows where one is.
addEventListener('DOMContentLoaded', () => {
  const box = document.querySelector('.sidebar-scroll');
  const here = document.querySelector('.sidebar-tree .current-page');
  if (box && here) box.scrollTop = here.offsetTop - box.clientHeight/2;
});
