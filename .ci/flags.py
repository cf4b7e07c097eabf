"""Startup file of IPython for `make lab` and `make notebooks SIZE=smoke`.

A cell whose flag asks for what is not here is left out, with a line, so that a notebook runs from
top to bottom."""
import os, re

def needed(flags):
    "What a cell with these flags needs and does not find."
    if 'data' in flags and not os.environ.get('GXPRISM_DATA'): return 'needs the data, GXPRISM_DATA'
    if 'notest' in flags: return 'is to be run by hand'
    if 'gpu' in flags:
        import torch
        if not torch.cuda.is_available(): return 'needs a GPU'

def left_out(lines):
    "The lines of a cell, or one that says why it is not run."
    why = needed({m[1] for l in lines if (m := re.match(r'#\|\s*(\w+)', l))})
    return [f'print("skipped: this cell {why}")\n'] if why else lines

if 'get_ipython' in globals(): get_ipython().input_transformers_cleanup.insert(0, left_out)
