"""Spiking networks made of somebody's trained ANN."""
