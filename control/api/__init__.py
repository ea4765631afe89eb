"""The HTTP API of control: operations declared once, served and described from the same table."""
