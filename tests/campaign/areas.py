"""All areas of the campaign, by name."""

from __future__ import annotations

from campaign import damage, disk, kill

AREAS = {area.name: area for area in (kill.AREA, disk.AREA, damage.AREA)}
