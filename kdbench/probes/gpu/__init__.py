"""What `kdbench doctor --gpu` tries: does this GPU, with this torch, do what the engine takes for granted?"""
