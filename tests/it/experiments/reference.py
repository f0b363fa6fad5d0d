"""Reference values of the statistics of experiments: scipy and statsmodels, and the published formulas where they have
none. Reads cases as JSON from stdin, writes the same list with the answers."""

import json
import math
import sys

import numpy as np
from scipy import optimize, special, stats
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import confint_proportions_2indep, proportions_ztest
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

TUNED_FOR = 10_000


def means(case):
    control, treatment, alpha = np.array(case["control"]), np.array(case["treatment"]), case["alpha"]
    compared = CompareMeans(DescrStatsW(treatment), DescrStatsW(control))
    single = compared.tconfint_diff(alpha=alpha, usevar="unequal")
    difference = treatment.mean() - control.mean()
    return {
        "single_look": [*single, stats.ttest_ind(treatment, control, equal_var=False).pvalue],
        **sequence(difference, error(control, treatment, "mean"), len(control) + len(treatment), alpha),
        "relative": relative(control, treatment),
    }


def rates(case):
    (converted, users), (others, other_users) = case["control"], case["treatment"]
    alpha = case["alpha"]
    single = confint_proportions_2indep(others, other_users, converted, users, method="wald", alpha=alpha)
    _, p_value = proportions_ztest([others, converted], [other_users, users])
    control, treatment = (np.repeat([1.0, 0.0], [k, n - k]) for k, n in (case["control"], case["treatment"]))
    difference = treatment.mean() - control.mean()
    return {
        "single_look": [*single, p_value],
        **sequence(difference, error(control, treatment, "rate"), users + other_users, alpha),
        "relative": relative(control, treatment),
    }


def error(control, treatment, _kind):
    """The larger of the error with a variance for each and that with one for both."""
    n, m = len(control), len(treatment)
    each = DescrStatsW(control).var_ddof if False else control.var(ddof=1) / n + treatment.var(ddof=1) / m
    both = CompareMeans(DescrStatsW(treatment), DescrStatsW(control)).std_meandiff_pooledvar ** 2
    return math.sqrt(max(each, both))
