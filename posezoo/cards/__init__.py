"""One YAML per model: what it is, what it needs, how good it was measured to be, and what it may be used for."""

from posezoo.cards.card import Card, CardError, Measurement, WeightFile, all_cards, read_card, read_card_file

__all__ = ["Card", "CardError", "Measurement", "WeightFile", "all_cards", "read_card", "read_card_file"]
