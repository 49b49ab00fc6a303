"""Scores that decide which photographs are good enough to train on."""
