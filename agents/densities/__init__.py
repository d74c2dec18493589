"""Densities that a location is drawn from, one file each; see `agents.densities.base`."""

from agents.densities.base import LocationDensity, density_names, find_density, register_density
from agents.densities.gaussian import GaussianDensity
from agents.densities.mixture import MixtureDensity

__all__ = [
    "GaussianDensity",
    "LocationDensity",
    "MixtureDensity",
    "density_names",
    "find_density",
    "register_density",
]
