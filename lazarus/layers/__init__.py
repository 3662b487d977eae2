"""Layers and stacks of layers.

A layer is a directory with an `index` (every entry of its tar, small files inline) and a `recipe` (what gives the tar
back byte for byte); contents of other files are objects of the content room. A stack is the merge of several indexes
and the EROFS image written from it, under the chain ID; it is a cache, built when first asked for.
"""
