"""Choosing: budgets, the sweep over depths and precisions, the pick, the report."""
