"""The same and more from Postgres, where every evaluation is a row: `report.py` prints three tables of the last day."""

import os

import psycopg

REPORTS = {
    "what users got": """
        SELECT environment, flag_name, coalesce(variant, evaluated_value #>> '{}', result::text) AS outcome,
               count(*) AS evaluations, count(DISTINCT user_id) AS users
        FROM feature_flag_evaluations
        WHERE evaluated_at > now() - interval '1 day'
        GROUP BY 1, 2, 3 ORDER BY 1, 2, 3""",
    "defaults, and why": """
        SELECT environment, flag_name, evaluation_reason, count(*) AS evaluations,
               round(100.0 * count(*) / sum(count(*)) OVER (PARTITION BY environment, flag_name), 1) AS percent
        FROM feature_flag_evaluations
        WHERE evaluated_at > now() - interval '1 day'
        GROUP BY 1, 2, 3 HAVING evaluation_reason <> 'TARGETING_MATCH' ORDER BY 1, 2, 3""",
    "users who saw more than one variant": """
        SELECT environment, flag_name, user_id, array_agg(DISTINCT variant ORDER BY variant) AS variants
        FROM feature_flag_evaluations
        WHERE evaluated_at > now() - interval '1 day' AND variant IS NOT NULL
        GROUP BY 1, 2, 3 HAVING count(DISTINCT variant) > 1 ORDER BY 1, 2, 3 LIMIT 20""",
}

with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as database:
    for title, query in REPORTS.items():
        print(f"# {title}")
        for row in database.execute(query):
            print(*row)
