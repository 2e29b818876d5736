"""From a request to records: cells, groups, teachers, what stays."""
