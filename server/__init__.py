"""The serving part of Equipoise: torch-free, and owner of every shared contract."""

__version__ = "0.1.0"
