"""SVG charts: shapes, scales, style, and the pictures made of them."""
