"""All areas of the campaign, by name."""

from __future__ import annotations

from campaign import kill

AREAS = {area.name: area for area in (kill.AREA,)}
