"""Compares the variants of an exported experiment with tea-tasting and gbstats.

Usage: python3 notebook.py FOLDER PHASE METRIC CONTROL TREATMENT
"""

import json
import sys

import pandas
import tea_tasting
from gbstats.frequentist.tests import FrequentistConfig, TwoSidedTTest
from gbstats.models.statistics import SampleMeanStatistic

folder, phase, metric, control, treatment = sys.argv[1:]
users = pandas.read_csv(f"{folder}/exposures.csv")
users = users[(users.phase == int(phase)) & (users.compared == "yes")]
values = pandas.read_csv(f"{folder}/values.csv")
values = values[(values.phase == int(phase)) & (values.metric == metric)]
# Users without a conversion count as zero.
users = users.merge(values[["user", "value"]], on="user", how="left").fillna({"value": 0.0})
users = users[users.variant.isin([control, treatment])]

users["treated"] = (users.variant == treatment).astype(int)
experiment = tea_tasting.Experiment({metric: tea_tasting.Mean("value", use_t=True, equal_var=False)}, "treated")
tea = experiment.analyze(users[["treated", "value"]])[metric]

arms = [users[users.treated == arm].value for arm in (0, 1)]
arms = [SampleMeanStatistic(n=len(arm), sum=arm.sum(), sum_squares=(arm**2).sum()) for arm in arms]
book = TwoSidedTTest(*arms, FrequentistConfig(difference_type="absolute", alpha=0.05)).compute_result()

print(json.dumps({
    "users": [arm.n for arm in arms],
    "tea_tasting": [tea.effect_size, tea.effect_size_ci_lower, tea.effect_size_ci_upper, tea.pvalue],
    "gbstats": [book.expected, *book.ci, book.p_value],
}))
