"""Queries that ask for the same prediction at the same time share one: the first leads, equal ones follow it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .pending import Query


def lead(query: Query) -> None:
    """Have equal queries follow this one from now on."""
    if query.key is not None:
        query.version.asked[query.key] = query


def join(leader: Query, query: Query) -> None:
    """Have a query wait for the leader's output. It keeps its own deadline."""
    if leader.followers is None:
        leader.followers = [query]
    else:
        leader.followers.append(query)


def part(leader: Query) -> list[Query]:
    """End a query's leading, with or without an output. Returns its followers that still want an answer."""
    asked = leader.version.asked
    if leader.key is not None and asked.get(leader.key) is leader:
        del asked[leader.key]
    followers = leader.followers
    if followers is None:
        return []
    leader.followers = None
    return [follower for follower in followers if not follower.is_done]
