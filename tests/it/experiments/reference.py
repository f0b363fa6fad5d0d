"""Answers of scipy, statsmodels, gbstats and tea-tasting to what the statistics of experiments are asked, and of the
published formulas where these have none. Reads a list of cases as JSON, and prints an answer to each."""

import json
import math
import sys

import numpy as np
import pandas
import tea_tasting
from gbstats.bayesian.tests import EffectBayesianABTest, EffectBayesianConfig
from gbstats.frequentist.tests import FrequentistConfig, SequentialConfig, SequentialTwoSidedTTest, TwoSidedTTest
from gbstats.models.statistics import RatioStatistic, SampleMeanStatistic
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
    return {"single_look": [*single_look, p_value], **sequential(control, treatment, case["alpha"], True)}


def rates(case):
    (converted, users), (other_converted, other_users) = case["control"], case["treatment"]
    single_look = confint_proportions_2indep(other_converted, other_users, converted, users, method="wald",
                                             alpha=case["alpha"])
    _, p_value = proportions_ztest([other_converted, converted], [other_users, users])
    control, treatment = (np.repeat([1.0, 0.0], [k, n - k]) for k, n in (case["control"], case["treatment"]))
    return {"single_look": [*single_look, p_value], **sequential(control, treatment, case["alpha"], False)}


def sequential(control, treatment, alpha, scales):
    """The confidence sequence of the difference, and of the relative one: the values that are not rejected with the
    larger of Welch's variance and the one that both variants have together if the value is the true one."""
    n, m = len(control), len(treatment)
    mean, other = control.mean(), treatment.mean()
    width = half_width(alpha, n + m)
    error = math.sqrt(variance_at(control, treatment, 0.0, scales))
    p_value = min(1.0, 1.0 / evidence((other - mean) / error, alpha, n + m))

    def rejected(effect):
        return abs(other - mean - effect) - width * math.sqrt(variance_at(control, treatment, effect, scales))

    def rejected_ratio(ratio):
        return abs(other - ratio * mean) - width * math.sqrt(variance_of_ratio(control, treatment, ratio, scales))

    interval = ends(rejected, other - mean, error)
    ratio = ends(rejected_ratio, other / mean, error / abs(mean))
    relative = ratio and [(other - mean) / mean, *(end - 1 for end in ratio)]
    return {"interval": interval, "p_value": p_value, "relative": relative}


def ends(rejected, inside, step):
    """Where the function changes its sign on both sides; None if it does not."""
    found = []
    for sign in (-1, 1):
        outside = step
        while rejected(inside + sign * outside) < 0:
            outside *= 1.1
            if outside > 1_000 * step:
                return None
        found.append(optimize.brentq(rejected, inside, inside + sign * outside, xtol=1e-14, rtol=1e-14))
    return found


def pooled(control, treatment, ratio):
    """The control's variance, from both variants, if the treatment's values are `ratio` times as large."""
    n, m = len(control), len(treatment)
    return ((n - 1) * control.var(ddof=1) + (m - 1) * (treatment / ratio).var(ddof=1)) / (n + m - 2)


def variance_at(control, treatment, effect, scales):
    n, m = len(control), len(treatment)
    variances = [control.var(ddof=1) / n + treatment.var(ddof=1) / m, pooled(control, treatment, 1) * (1 / n + 1 / m)]
    if scales and effect != 0:
        mean, other = control.mean(), treatment.mean()
        ratio = (mean + effect) / mean if n >= m else other / (other - effect)
        if ratio > 0:
            variances.append(pooled(control, treatment, ratio) * (1 / n + ratio**2 / m))
    return max(variances)


def variance_of_ratio(control, treatment, ratio, scales):
    n, m = len(control), len(treatment)
    plain = treatment.var(ddof=1) / m + ratio**2 * control.var(ddof=1) / n
    variance = pooled(control, treatment, ratio if scales else 1)
    return max(plain, variance * ((ratio**2 if scales else 1) / m + ratio**2 / n))


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


def packages(case):
    """What gbstats, tea-tasting and statsmodels say of the same data: a mean, and a ratio of means."""
    arms = [np.array(case[arm]).T for arm in ("control", "treatment")]
    frame = pandas.concat([pandas.DataFrame({"treated": t, "value": arm[0], "other": arm[1]}) for t, arm in enumerate(arms)])
    tea = tea_tasting.Experiment({
        "mean": tea_tasting.Mean("value", use_t=True, equal_var=False),
        "ratio": tea_tasting.RatioOfMeans("value", "other", use_t=True, equal_var=False),
    }, "treated").analyze(frame)
    sums = [SampleMeanStatistic(n=len(arm[0]), sum=arm[0].sum(), sum_squares=(arm[0] ** 2).sum()) for arm in arms]
    others = [SampleMeanStatistic(n=len(arm[1]), sum=arm[1].sum(), sum_squares=(arm[1] ** 2).sum()) for arm in arms]
    ratios = [
        RatioStatistic(n=one.n, m_statistic=one, d_statistic=other, m_d_sum_of_products=(arm[0] * arm[1]).sum())
        for one, other, arm in zip(sums, others, arms)
    ]
    fixed = FrequentistConfig(difference_type="absolute", alpha=0.05)
    mean = TwoSidedTTest(*sums, fixed).compute_result()
    ratio = TwoSidedTTest(*ratios, fixed).compute_result()
    sequential = SequentialConfig(difference_type="absolute", alpha=0.05, sequential_tuning_parameter=TUNED_FOR_USERS)
    sequential = SequentialTwoSidedTTest(*sums, sequential).compute_result()
    bayes = EffectBayesianABTest(*sums, EffectBayesianConfig(difference_type="absolute")).compute_result()
    models = CompareMeans(DescrStatsW(arms[1][0]), DescrStatsW(arms[0][0]))
    look = models.tconfint_diff(alpha=0.05, usevar="unequal")
    teas = {name: [of.effect_size, of.effect_size_ci_lower, of.effect_size_ci_upper, of.pvalue] for name, of in tea.items()}
    return {
        "gbstats": [mean.expected, *mean.ci, mean.p_value],
        "tea_tasting": teas["mean"],
        "statsmodels": [arms[1][0].mean() - arms[0][0].mean(), *look, models.ttest_ind(usevar="unequal")[1]],
        "gbstats_ratio": [ratio.expected, *ratio.ci, ratio.p_value],
        "tea_tasting_ratio": teas["ratio"],
        "sequential_p_value": sequential.p_value if len(arms[0][0]) == len(arms[1][0]) else None,
        "bayesian": [bayes.chance_to_win, *bayes.ci],
    }


ANSWERS = {"packages": packages, "means": means, "rates": rates, "split": split, "planning": planning, "adjusted": adjusted}
json.dump([ANSWERS[case["kind"]](case) for case in json.load(sys.stdin)], sys.stdout)
