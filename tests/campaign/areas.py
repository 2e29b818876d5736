"""All areas of the campaign, by name."""

from __future__ import annotations

from campaign import company, damage, disk, kill, lines, screens
from campaign.area import Area

AREAS: dict[str, Area] = {
    area.name: area for area in (kill.AREA, disk.AREA, damage.AREA, lines.AREA, company.AREA, screens.AREA)
}
