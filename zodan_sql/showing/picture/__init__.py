"""Pictures of a topology as text, Mermaid, Graphviz and SVG. They only draw what the client has read."""

from zodan_sql.showing.picture.graph import dot, mermaid
from zodan_sql.showing.picture.matrix import matrix
from zodan_sql.showing.picture.svg import svg
from zodan_sql.showing.picture.words import summary, troubles

__all__ = ["dot", "matrix", "mermaid", "summary", "svg", "troubles"]
