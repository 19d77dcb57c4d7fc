"""A bank of recent documents: more neighbours for mixing than one batch holds."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hr_search.base.devices import to_device
from hr_search.base.errors import InputError
from hr_search.batches import Batch, Rows


class Bank:
    """The latest embeddings of up to `size` documents, the oldest replaced first: more neighbours than one batch holds.

    Embeddings of the last steps are almost those the encoder would give now, as it changes slowly
    (cross-batch memory: Wang et al. 2020, arXiv:1912.06798).

    Attributes:
        embeddings: (size, D) float32, without gradient; zeros in empty places.
        documents: (size,) index of each entry in `Rows.documents`, -1 in empty places.
    """

    def __init__(self, size: int, dimension: int, device: torch.device | str = "cpu") -> None:
        """An empty bank for `size` documents of D = `dimension`; a size below 1 is refused."""
        if size < 1:
            raise InputError(f"a bank of {size} documents holds nothing; give a size of 1 or more.")
        self.embeddings = torch.zeros(size, dimension, device=device)
        self.documents = np.full(size, -1, dtype=np.int64)
        self._next = 0

    def __len__(self) -> int:
        """How many documents it holds now."""
        return int((self.documents >= 0).sum())

    def add(self, embeddings: Tensor, documents: np.ndarray) -> None:
        """Stores the documents of a step; a document that is there already leaves its old place.

        Args:
            embeddings: (M, D), L2-normalised; kept without gradient.
            documents: (M,) distinct indices into `Rows.documents`.

        Raises:
            InputError: the step has more documents than the bank has places.
        """
        size = len(self.documents)
        if len(documents) > size:
            raise InputError(
                f"the bank has {size} places and a step brings {len(documents)} documents; give a larger bank or a "
                "smaller batch."
            )
        self.documents[np.isin(self.documents, documents)] = -1
        places = (self._next + np.arange(len(documents))) % size
        self.documents[places] = documents
        self.embeddings[to_device(places, self.embeddings.device)] = embeddings.detach().to(self.embeddings)
        self._next = (self._next + len(documents)) % size

    def masks(self, rows: Rows, batch: Batch) -> tuple[Tensor, Tensor]:
        """Which entries are positives, and which negatives, of each row of a batch: two masks (B, size).

        Groups decide, as within a batch, and what matches in part is neither. A document of the batch itself is
        neither, since it is there already, and neither is an empty place.
        """
        usable = (self.documents >= 0) & ~np.isin(self.documents, batch.documents)
        places = np.flatnonzero(usable)
        held, shape = self.documents[places], (len(batch.queries), len(usable))
        fits, near = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
        fits[:, places] = (rows.query_groups[batch.queries] @ rows.document_groups[held].T).toarray() > 0
        if rows.query_softgroups is not None:
            near[:, places] = (rows.query_softgroups[batch.queries] @ rows.document_softgroups[held].T).toarray() > 0
        relevant, wrong = fits[batch.query], usable & ~(fits | near)[batch.query]
        both = to_device(np.stack([relevant, wrong]), self.embeddings.device)
        return both[0], both[1]

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of everything it holds, as plain tensors."""
        return {
            "embeddings": self.embeddings.clone(),
            "documents": torch.from_numpy(self.documents.copy()),
            "next": torch.tensor(self._next),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores what `state_dict` gave; that of a bank of another size or dimension is refused."""
        there, here = tuple(state["embeddings"].shape), tuple(self.embeddings.shape)
        if there != here:
            raise InputError(
                f"the stored bank has {there[0]} places of {there[1]} numbers, this one {here[0]} of {here[1]}; "
                "resume with equal settings."
            )
        self.embeddings.copy_(state["embeddings"])
        self.documents[:] = state["documents"].cpu().numpy()
        self._next = int(state["next"])
