"""What a stack must know of its cluster: asked before anything is registered, never assumed."""
