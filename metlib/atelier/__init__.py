"""The atelier of the synthetic museum: brushes, paintings, objects, and the photographs taken of them."""
