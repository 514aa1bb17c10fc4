"""Tools on PostgreSQL with pgvector: store texts with their embeddings, and find the nearest.

The database is named by PGVECTOR_URL (a libpq connection string), from a Secret. A collection is a table that the first
insert makes, with an HNSW index over cosine distance (https://github.com/pgvector/pgvector).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from pgvector import Vector
from pgvector.psycopg import register_vector
from psycopg import Connection, Error, OperationalError, sql
from psycopg.errors import DataException, UndefinedTable
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from psycopg_pool import ConnectionPool, PoolTimeout
from pydantic import BaseModel, Field, StringConstraints

from despina_runtime.tools.errors import NotReady

__all__ = ["pgvector_insert", "pgvector_search"]
URL_ENV = "PGVECTOR_URL"
POOL_SIZE, WAIT_SECONDS = 8, 5.0
Collection = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,47}$")]
Vectors = Annotated[list[float], Field(min_length=1, max_length=2000)]


class Document(BaseModel):
    """One text to store."""

    id: Annotated[str, StringConstraints(min_length=1, max_length=512)]
    text: str
    embedding: Vectors
    metadata: dict[str, Any] = {}


class Match(BaseModel):
    """One text that was found."""

    id: str
    text: str
    metadata: dict[str, Any]
    similarity: float
    """Cosine similarity, from -1 to 1."""


def check() -> None:
    """Whether the database is named; raises NotReady."""
    if not os.environ.get(URL_ENV):
        raise NotReady("DatabaseMissing", f"set {URL_ENV} from a Secret, by spec.backends[].deployment.podTemplate")


def pgvector_insert(collection: Collection, documents: Annotated[list[Document], Field(max_length=1000)]) -> int:
    """Store texts with their embeddings; one with a known id takes the old one's place. Gives how many there were."""
    if not documents:
        return 0
    rows = [(d.id, d.text, Vector(d.embedding), Jsonb(d.metadata)) for d in documents]
    insert = sql.SQL(
        "INSERT INTO {} (id, text, embedding, metadata) VALUES (%s, %s, %s, %s) ON CONFLICT (id) DO UPDATE"
        " SET text = excluded.text, embedding = excluded.embedding, metadata = excluded.metadata"
    ).format(sql.Identifier(collection))
    with _connection(collection) as connection, connection.cursor() as cursor:
        _make(connection, collection, len(documents[0].embedding))
        cursor.executemany(insert, rows)
    return len(rows)


def pgvector_search(
    collection: Collection,
    embedding: Vectors,
    top_k: Annotated[int, Field(ge=1, le=200)] = 5,
    filter: dict[str, Any] | None = None,  # noqa: A002 - the word that vector databases use
    min_similarity: Annotated[float, Field(ge=-1, le=1)] = -1.0,
) -> list[Match]:
    """The texts nearest to an embedding, the nearest first; `filter` names metadata that they must have."""
    search = sql.SQL(
        "SELECT id, text, metadata, 1 - (embedding <=> %(vector)s) AS similarity FROM {}"
        " WHERE metadata @> %(filter)s AND embedding <=> %(vector)s <= %(farthest)s"
        " ORDER BY embedding <=> %(vector)s LIMIT %(top_k)s"
    ).format(sql.Identifier(collection))
    values = {
        "vector": Vector(embedding),
        "filter": Jsonb(filter or {}),
        "top_k": top_k,
        "farthest": 1 - min_similarity,
    }
    with _connection(collection) as connection, connection.cursor(row_factory=dict_row) as cursor:
        # The index gives its nearest first and filters then; without this it might give fewer than there are.
        cursor.execute("SET LOCAL hnsw.iterative_scan = strict_order")
        cursor.execute(search, values)
        return [Match.model_validate(row) for row in cursor.fetchall()]


def _make(connection: Connection[Any], collection: str, dimensions: int) -> None:
    """The table and its index, unless they are there. A lock keeps two first inserts apart."""
    connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [collection])
    columns = sql.SQL("id text PRIMARY KEY, text text NOT NULL, embedding vector({}) NOT NULL, metadata jsonb NOT NULL")
    table = sql.Identifier(collection)
    make = sql.SQL("CREATE TABLE IF NOT EXISTS {} ({})").format(table, columns.format(sql.Literal(dimensions)))
    connection.execute(make)
    index = sql.SQL("CREATE INDEX IF NOT EXISTS {} ON {} USING hnsw (embedding vector_cosine_ops)")
    connection.execute(index.format(sql.Identifier(f"{collection}_hnsw"), table))


@contextmanager
def _connection(collection: str) -> Iterator[Connection[Any]]:
    """A connection with a transaction around it. What the database says is told without its address."""
    check()
    try:
        with _pool().connection(timeout=WAIT_SECONDS) as connection:
            yield connection
    except PoolTimeout as exc:
        raise NotReady("DatabaseUnreachable", "no connection to the database could be had") from exc
    except UndefinedTable as exc:
        raise LookupError(f"there is no collection {collection}: insert something first") from exc
    except DataException as exc:
        raise ValueError(exc.diag.message_primary or "the database refused the values") from exc
    except OperationalError as exc:
        raise ConnectionError("the connection to the database broke") from exc
    except Error as exc:
        raise RuntimeError(f"the database answered {exc.sqlstate}") from exc


@functools.cache
def _pool() -> ConnectionPool:
    """Connections, made as they are needed and checked before they are used."""
    return ConnectionPool(
        os.environ[URL_ENV],
        min_size=1,
        max_size=POOL_SIZE,
        configure=_configure,
        check=ConnectionPool.check_connection,
        open=True,
    )


def _configure(connection: Connection[Any]) -> None:
    connection.execute("SELECT pg_advisory_xact_lock(hashtext('vector'))")
    connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    connection.commit()
    register_vector(connection)
    connection.commit()
