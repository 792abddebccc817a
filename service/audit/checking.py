"""An audit's chain, gone through from its first entry to its last."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from contract.audit import Deleted
from contract.chain import START, digest_of, link_of
from service.audit.heads import Head
from service.audit.reading import Link


@dataclass
class Check:
    """Takes the entries in order, then `end`. `fault` is the first thing found wrong; None as long as nothing is.

    Heads that were kept elsewhere, with good signatures, say how it went on once: an entry may be missing before them
    because its time was over, and then a later entry says so, but never after them.
    """

    tenant: str
    heads: Iterable[Head] = ()
    fault: str | None = None
    first: Link | None = None
    last: Link | None = None
    deleted: Deleted | None = None  # what went before the first entry
    _deletions: dict[int, Deleted] = field(default_factory=dict)  # by the last that went

    def take(self, one: Link) -> None:
        """The next entry."""
        before, self.last = self.last, one
        where = f"entry {one.sequence}"
        if before is None:
            self.first = one
        elif one.sequence != before.sequence + 1:
            self._note(f"{where} comes after entry {before.sequence}: some were removed, doubled or moved")
        if digest_of(one.body) != one.sha256:
            self._note(f"{where} does not say what was put on record")
        link_before = before.link if before else START
        if (before or one.sequence == 1) and link_of(link_before, one.sequence, one.sha256) != one.link:
            self._note(f"{where} does not hang on the one before it")
        for head in self.heads:
            if head.sequence == one.sequence and head.link != one.link:
                self._note(f"{where} is not the one that was the last on {head.at:%Y-%m-%d %H:%M:%S} UTC")
        try:
            said = one.entry
        except ValueError:
            self._note(f"{where} says nothing that is known here")
            return
        if said.tenant != self.tenant:
            self._note(f"{where} is of {said.tenant}, not of {self.tenant}")
        if isinstance(said, Deleted):
            self._deletions[said.last] = said

    def end(self, head: tuple[int, str] | None) -> None:
        """There are no more. `head` is what the last one is said to be; None: that there is none."""
        self._check_beginning()
        last = (self.last.sequence, self.last.link) if self.last else None
        if last != head:
            self._note(f"it ends at {_told(last)}, and should end at {_told(head)}")
        for kept in self.heads:
            if kept.sequence > (last or (0, ""))[0]:
                self._note(
                    f"it ends at {_told(last)}, and had {kept.sequence} on {kept.at:%Y-%m-%d %H:%M:%S} UTC: its end was"
                    " cut off"
                )

    def _check_beginning(self) -> None:
        if self.first is None or self.first.sequence == 1:
            return
        self.deleted = self._deletions.get(self.first.sequence - 1)
        if self.deleted is None:
            self._note(f"it begins with entry {self.first.sequence}, and nothing says what was before it")
        elif link_of(self.deleted.link, self.first.sequence, self.first.sha256) != self.first.link:
            self._note(f"entry {self.first.sequence} does not hang on what was deleted before it")

    def _note(self, fault: str) -> None:
        self.fault = self.fault or fault


def _told(last: tuple[int, str] | None) -> str:
    return f"entry {last[0]}" if last else "nothing"
