"""Every method that graphfsl has, as (slot, name)."""

from graphfsl.core import registry

METHODS = sorted(registry.find())
