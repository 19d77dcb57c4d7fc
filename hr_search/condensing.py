"""Where `Condenser` stood before version 0.2: the cards of models that were saved then import it from here."""

from hr_search.models.condenser import Condenser

__all__ = ["Condenser"]
