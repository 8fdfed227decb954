"""Recipes, and the one trainer that runs them."""
