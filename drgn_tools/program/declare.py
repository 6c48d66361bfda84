# SPDX-License-Identifier: LGPL-2.1-or-later
"""A user declares the type of a variable that has a symbol, but no type."""

from __future__ import annotations

from typing import Optional

from drgn import FindObjectFlags, Object, Program, Symbol, SymbolKind, Type, sizeof
from drgn.helpers.common.prog import takes_program_or_default

from ..cache_key import PREFIX, cache_key
from ..debuginfo.declarations import DeclarationError, make_type, parse_declaration
from ..errors import UsageError
from .open import require_kernel

__all__ = ("declare",)

_FINDER = f"{PREFIX}.declared"
"""Name of the object finder in drgn."""

_CACHE_KEY = cache_key(__name__)


@takes_program_or_default
def declare(prog: Program, declaration: str) -> Object:
    """Declare the type of a variable; its symbol has the address.

    BTF seldom has the types of global variables. From then on, ``prog["bar"]`` is this variable, also
    for helpers and commands. It goes before debuginfo of a variable of that name. A second
    declaration replaces the first.

    >>> declare(prog, "struct foo *bar[]")

    :param declaration: C, of one variable: a type by its name, pointers to it, arrays of it, or a
        struct that is written out (``struct { int a; struct list_head list; } bar``). A length is a
        number or an enumerator; with an empty one the array extends to the next symbol. For a
        per-CPU variable, give the type that it has on each CPU; drgn's ``per_cpu()`` accepts the result.
    :return: the variable
    :raises UsageError: if the declaration is not valid, there is no such type, there is not exactly
        one such symbol, or the variable is too small for the type
    :raises InputError: if the program is not a kernel
    """
    require_kernel(prog)
    if not isinstance(declaration, str):
        raise UsageError(f'a declaration is text, such as "int bar", not {declaration!r}')
    try:
        parsed = parse_declaration(declaration)
    except DeclarationError as e:
        raise UsageError(f"{declaration!r} cannot be declared: {e}") from e
    assert parsed.name is not None
    symbol = _symbol(prog, parsed.name)

    def fill(type: Type, repeated: int, is_outermost: bool) -> int:
        if symbol.size < repeated:
            raise DeclarationError("its length is not known; give one")
        return int(symbol.size // repeated)

    try:
        type = make_type(prog, parsed, fill)
        size = sizeof(type)
    except (LookupError, TypeError, SyntaxError, DeclarationError) as e:
        what = e.args[0] if e.args else e
        raise UsageError(f"{declaration!r} cannot be declared: {what}") from e
    if 0 < symbol.size < size:
        raise UsageError(
            f"{declaration!r} cannot be declared: it has {size} bytes, the variable {symbol.size}"
        )
    found = Object(prog, type, address=symbol.address)
    _declared(prog)[parsed.name] = found
    return found


def _symbol(prog: Program, name: str) -> Symbol:
    # A function may have the same name as a variable.
    found = prog.symbols(name)
    data = [symbol for symbol in found if symbol.kind is not SymbolKind.FUNC] or found
    addresses = sorted({symbol.address for symbol in data})
    if len(addresses) != 1:
        where = ", at " + ", ".join(map(hex, addresses[:8])) if addresses else ""
        raise UsageError(
            f"{name} cannot be declared: the kernel has {len(addresses) or 'no'} "
            f"symbol{'s' * (len(addresses) != 1)} of this name{where}"
        )
    return max(data, key=lambda symbol: int(symbol.size))


def _declared(prog: Program) -> dict[str, Object]:
    try:
        variables: dict[str, Object] = prog.cache[_CACHE_KEY]
    except KeyError:
        variables = prog.cache[_CACHE_KEY] = {}
        prog.register_object_finder(_FINDER, _find, enable_index=0)
    return variables


def _find(
    prog: Program, name: str, flags: FindObjectFlags, filename: Optional[str]
) -> Optional[Object]:
    if filename is not None or not flags & FindObjectFlags.VARIABLE:
        return None
    return _declared(prog).get(name)
