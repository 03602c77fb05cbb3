"""Bytes on disk → `Tensors`: one module a format, chosen by content and never by extension."""

from maskgraft.files.opening import open_checkpoint as open_checkpoint
from maskgraft.files.tensors import LazyArray as LazyArray
from maskgraft.files.tensors import Tensors as Tensors
