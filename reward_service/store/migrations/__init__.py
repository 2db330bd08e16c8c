"""Versions of the trace store's tables; a store is brought up to date where it is opened."""
