"""The contract between knowing and attending: patches of a picture, what is known of them, what was planned."""

from .contract import Plan, Planner, Scene

__all__ = ["Plan", "Planner", "Scene"]
