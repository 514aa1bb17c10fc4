"""The tools on PostgreSQL with pgvector by the name that manifests know; `toolhost/vectors.py` is what they are."""

from __future__ import annotations

from despina_runtime.toolhost.vectors import check, pgvector_insert, pgvector_search

__all__ = ["check", "pgvector_insert", "pgvector_search"]
