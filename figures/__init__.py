"""The pictures, and the code that draws them. (A regular package, so no other of this name shadows it.)"""
