"""What `tools/reproduce.py` repeats: the figures and tables of the four papers, by commands of the package.

Items are data, one module for each paper; `_runs` carries them out, `_page` writes docs/reproduce.md.
"""

from reproductions import _ensembles, _lae, _pae, _vlae
from reproductions._items import Item

#: by name, in the order of the papers
ITEMS: dict[str, Item] = {item.name: item for module in (_pae, _vlae, _lae, _ensembles) for item in module.ITEMS}
