"""The quantile of Student's t that intervals need, in SQL, which DuckDB lacks."""

_T_975 = (
    12.706204736432, 4.302652729696, 3.182446305284, 2.776445105198, 2.570581835636, 2.446911851145, 2.364624251593,
    2.306004135204, 2.262157162798, 2.228138851965, 2.200985160083, 2.178812829663, 2.160368656461, 2.144786687917,
    2.131449545559, 2.119905299221, 2.109815577833, 2.100922040241, 2.093024054408, 2.085963447266, 2.079613844728,
    2.073873067904, 2.068657610419, 2.063898561628, 2.059538552753, 2.055529438643, 2.051830516480, 2.048407141795,
    2.045229642133, 2.042272456301,
)  # fmt: skip
_Z_975 = 1.959963984540054


def t_quantile_sql(freedom: str) -> str:
    """SQL of the 97.5 % quantile of Student's t, which DuckDB lacks; NULL below one degree of freedom.

    A table up to 30 degrees of freedom; above, the Cornish-Fisher expansion in 1 / freedom (Abramowitz and Stegun
    26.7.5) up to its fourth term, whose error at 31 is below 1e-7.

    Args:
        freedom: SQL expression of the degrees of freedom.
    """
    z = _Z_975
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    expansion = " + ".join([repr(z), *(f"{term!r} / pow({freedom}, {n})" for n, term in enumerate(terms, start=1))])
    table = ", ".join(repr(value) for value in _T_975)
    return f"CASE WHEN {freedom} < 1 THEN NULL WHEN {freedom} <= 30 THEN [{table}][{freedom}] ELSE {expansion} END"
