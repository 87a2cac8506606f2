"""Finding passages: by their words, by their vectors, or by both; and the documents that passages are cut from."""

from migaki.retrieval.documents import Library, read_documents
from migaki.retrieval.index import Hit, Index, Way
from migaki.retrieval.passages import Passage, read_passages, write_passages

__all__ = ["Hit", "Index", "Library", "Passage", "Way", "read_documents", "read_passages", "write_passages"]
