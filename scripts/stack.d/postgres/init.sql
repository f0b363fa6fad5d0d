-- Run once, on a new cluster. Unleash keeps its own database.
CREATE DATABASE unleash;
