"""Stored knowledge: what a teacher says of every image and view, computed once and read from disk ever after."""

from kdnas.knowledge.store.forms import FORMS, Form, bytes_per_vector
from kdnas.knowledge.store.identity import Identity, identity_of
from kdnas.knowledge.store.store import Store, Target

__all__ = ["FORMS", "Form", "Identity", "Store", "Target", "bytes_per_vector", "identity_of"]
