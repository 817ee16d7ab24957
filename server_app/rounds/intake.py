"""The replies of one round to train, from their arrival to their sum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from common.errors import WireError
from common.wire import from_parts
from server_app.aggregation.replies import EMPTY, Offer, Replies, present
from server_app.clients.messaging import Answer
from server_app.method import Method
from server_app.transport.told import Counted, Partial, Refused
from server_app.validation.errors import Rejected
from server_app.validation.gate import Candidate, Gate, check_fields
from server_app.validation.message import Asked, check, read
from server_app.validation.outliers import WARM_UP


class Images(NamedTuple):
    """Of a client: images that it enrolled with, and for how many it counts at most."""

    enrolled: int
    counted: int


class Held(NamedTuple):
    """A reply that waits to be compared with others of its round."""

    answer: Answer
    candidate: Candidate[Offer]


class Intake:
    """Looks at replies, compares them with one another, and adds up those that are accepted.

    Attributes
    ----------
    replies: those that were.
    """

    def __init__(
        self,
        method: Method,
        gate: Gate,
        round: int,
        kind: str,
        run_id: int,
        images: Callable[[int], Images],
        client: Callable[[int], int] = lambda client_id: client_id,
    ) -> None:
        """Begin a round.

        Parameters
        ----------
        kind: message type that was sent.
        run_id: Flower's id of the run.
        images: of a client.
        client: the method's number of whom an answer is from, by the answer's ``client_id``.
        """
        self._method = method
        self._gate = gate
        self._round = round
        self._kind = kind
        self._run_id = run_id
        self._images = images
        self._client = client
        self._held: list[Held] = []
        self._partials: dict[Partial, list[tuple[Answer, Counted]]] = {}
        self.replies = Replies(method)

    def take(self, answer: Answer, last: bool) -> Iterator[tuple[Answer, Offer | Rejected]]:
        """Take in an answer; gives what was decided, on this one or on others that were held back.

        Parameters
        ----------
        last: whether it is the round's last, so that all is to be decided on.
        """
        reply = answer.reply
        if isinstance(reply, Refused):
            self._gate.reject(self._round, answer.node)
            yield answer, Rejected(reply.field, reply.reason, reply.excessive)
        elif isinstance(reply, Counted):
            yield from self._count(answer, reply)
        elif reply is not None:
            try:
                seen = self._gate.look(self._round, answer.node, partial(self._examine, answer))
            except Rejected as refusal:
                yield answer, refusal
            else:
                self._held.append(Held(answer, seen))
        for held in self._ready(last):
            try:
                offer = self._gate.decide(
                    self._round, held.candidate, moving=held.candidate.seen.sizes
                )
            except Rejected as refusal:
                yield held.answer, refusal
            else:
                self.replies.accept(offer)
                yield held.answer, offer
        for incomplete in [*self._partials] if last else ():
            lacking = Rejected("sum", f"that of {incomplete.leaf} holds replies that are not here")
            for waiting, _ in self._partials.pop(incomplete):
                yield waiting, lacking

    def _ready(self, last: bool) -> list[Held]:
        """Takes what can be decided on from the replies that are held back."""
        held = self._held
        ready = [held.pop()] if held and self._gate.plain(held[-1].candidate) else []
        if last or len(held) >= WARM_UP:
            ready += held
            held.clear()
            self._gate.compare([one.candidate for one in ready])
        return ready

    def _examine(self, answer: Answer) -> tuple[Offer, dict[str, float]]:
        """The reply, and sizes for the gate.

        Raises
        ------
        Rejected: something is wrong with it.
        """
        method, client = self._method, self._client(answer.client_id)
        assert method.up is not None
        expected = method.expects(client)
        asked = Asked(answer.node, answer.message_id, self._run_id, self._kind)
        reply = check(answer.reply, asked, expected)
        up: Any = read(method.up, reply.content)
        images = self._images(client)
        check_fields(up, self._round, images.enrolled, expected)
        if up.examples > images.counted:
            up = replace(up, examples=images.counted)
        offer = self.replies.offer(client, up)
        return offer, offer.compared

    def _count(self, answer: Answer, counted: Counted) -> Iterator[tuple[Answer, Offer | Rejected]]:
        """A reply that is in a leaf's sum counts when all that are in it are here."""
        whole = counted.partial
        waiting = self._partials.setdefault(whole, [])
        waiting.append((answer, counted))
        if len(waiting) < whole.count:
            return
        del self._partials[whole]
        try:
            offers = [self._offer(self._client(a.client_id), c) for a, c in waiting]
            self.replies.merge(whole.parts, offers)
        except (Rejected, ValueError) as error:
            refusal = Rejected("sum", f"that of {whole.leaf} cannot be used: {error}")
            yield from ((one, refusal) for one, _ in waiting)
            return
        for (one, told), offer in zip(waiting, offers, strict=True):
            self._gate.admit_elsewhere(one.node, offer.compared, told.doubtful)
            yield one, offer

    def _offer(self, client: int, told: Counted) -> Offer:
        """A reply without its tensors, which a leaf has looked at.

        Raises
        ------
        Rejected: it does not fit.
        """
        method = self._method
        assert method.up is not None
        try:
            up: Any = from_parts(method.up, dict.fromkeys(told.tensors, EMPTY), told.notes)
        except WireError as error:
            raise Rejected(error.field, str(error)) from None
        images = self._images(client)
        check_fields(up, self._round, images.counted, {})
        expected = present(method.expects(client), up)
        sizes = [told.sizes.get(name, math.nan) for name in expected]
        if not all(math.isfinite(size) for size in [*sizes, *told.compared.values()]):
            raise Rejected("sizes", "are not finite, or not those of its tensors")
        method.take_finding(client, up, told.found)
        weight, factor = method.weight(client, up), method.factor(client, up)
        return Offer(client, up, weight, factor, expected, told.sizes, told.compared)
