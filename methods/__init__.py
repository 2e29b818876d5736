"""The methods: one file each, discovered by kdbench.registry."""
