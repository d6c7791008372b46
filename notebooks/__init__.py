"""The notebooks, and the modules they share. (A regular package, so no other of this name shadows it.)"""
