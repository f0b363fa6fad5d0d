"""Answers of scipy and statsmodels to what the statistics of experiments are asked, and of the published formulas where
these have none. Reads a list of cases as JSON, and prints an answer to each."""

import json
import math
import sys

import numpy as np
from scipy import integrate, optimize, stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import confint_proportions_2indep, proportions_ztest
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

TUNED_FOR_USERS = 10_000
PRIOR_USERS = 1_000


def means(case):
    control, treatment = np.array(case["control"]), np.array(case["treatment"])
    compared = CompareMeans(DescrStatsW(treatment), DescrStatsW(control))
    single_look = compared.tconfint_diff(alpha=case["alpha"], usevar="unequal")
    p_value = stats.ttest_ind(treatment, control, equal_var=False).pvalue
    return {"single_look": [*single_look, p_value], **sequential(control, treatment, case["alpha"])}


def rates(case):
    (converted, users), (other_converted, other_users) = case["control"], case["treatment"]
    single_look = confint_proportions_2indep(other_converted, other_users, converted, users, method="wald",
                                             alpha=case["alpha"])
    _, p_value = proportions_ztest([other_converted, converted], [other_users, users])
    control, treatment = (np.repeat([1.0, 0.0], [k, n - k]) for k, n in (case["control"], case["treatment"]))
    return {"single_look": [*single_look, p_value], **sequential(control, treatment, case["alpha"])}


def sequential(control, treatment, alpha):
    """The confidence sequence of the difference, and the delta method for the relative one."""
    n, m = len(control), len(treatment)
    compared = CompareMeans(DescrStatsW(treatment), DescrStatsW(control))
    caution = max(1.0, compared.std_meandiff_pooledvar / compared.std_meandiff_separatevar)
    error = caution * compared.std_meandiff_separatevar
    difference = treatment.mean() - control.mean()
    width = half_width(alpha, n + m)
    p_value = min(1.0, 1.0 / evidence(difference / error, alpha, n + m))

    covariance = np.diag([control.var(ddof=1) / n, treatment.var(ddof=1) / m])
    gradient = np.array([-treatment.mean() / control.mean() ** 2, 1.0 / control.mean()])
    relative = caution * math.sqrt(gradient @ covariance @ gradient)
    return {
        "interval": [difference - width * error, difference + width * error],
        "p_value": p_value,
        "relative": [difference / control.mean(), relative],
    }


def rho(alpha):
    return math.sqrt((-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / TUNED_FOR_USERS)


def evidence(z, alpha, users):
    """The mixture martingale: the likelihood ratio of each mean to zero, averaged over the normal mixture of means."""
    total, deviation = z * math.sqrt(users), rho(alpha)
    # Where the product of likelihood and mixture is largest, so that the quadrature finds it.
    centre = total / (users + 1 / deviation**2)
    reach = 12 / math.sqrt(users + 1 / deviation**2)

    def weighted(mean):
        return math.exp(mean * total - mean**2 * users / 2) * stats.norm.pdf(mean, scale=deviation)

    return integrate.quad(weighted, centre - reach, centre + reach, epsabs=0, epsrel=1e-11)[0]


def half_width(alpha, users):
    return optimize.brentq(lambda z: math.log(evidence(z, alpha, users) * alpha), 0.1, 20, xtol=1e-13)


def split(case):
    users, weights = np.array(case["users"]), np.array(case["weights"])
    shares, total = weights / weights.sum(), users.sum()
    against = stats.dirichlet_multinomial.logpmf(users, PRIOR_USERS * shares, total)
    expected = stats.multinomial.logpmf(users, total, shares)
    chi_squared = stats.chisquare(users, shares * total)
    return [chi_squared.statistic, chi_squared.pvalue, min(1.0, math.exp(expected - against))]


def planning(case):
    alpha, power, deviation, users = case["alpha"], case["power"], case["deviation"], case["users"]

    def detectable(with_users):
        # One look at the sequential boundary is a z-test of this level.
        level = 2 * stats.norm.sf(half_width(alpha, with_users))
        # Its own solve_power stops at seven digits.
        surplus = lambda effect: NormalIndPower().power(effect, with_users / 2, level / 2, alternative="larger") - power
        effect = optimize.brentq(surplus, 0, 10, xtol=1e-15)
        return effect * deviation

    needed = optimize.brentq(lambda n: detectable(n) - case["effect"], 100, 1e9, xtol=1e-3, rtol=1e-12)
    return [detectable(users), math.ceil(needed)]


def adjusted(case):
    """CUPED with one theta is the regression on variant and value before."""
    arms = [np.array(case[arm]).T for arm in ("control", "treatment")]
    before, after = np.concatenate(arms, axis=1)
    treated = np.repeat([0.0, 1.0], [len(arm[0]) for arm in arms])
    fitted = OLS(after, np.column_stack([np.ones_like(after), treated, before])).fit()
    plain = OLS(after, np.column_stack([np.ones_like(after), treated])).fit()
    return [fitted.params[2], fitted.params[1], 1 - fitted.ssr / plain.ssr]


ANSWERS = {"means": means, "rates": rates, "split": split, "planning": planning, "adjusted": adjusted}
json.dump([ANSWERS[case["kind"]](case) for case in json.load(sys.stdin)], sys.stdout)
