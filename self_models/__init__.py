"""The models: network plans, layers, neurons, and the objectives built on them. Imports torch only."""
