"""Methods: what a run trains, and how it predicts. A prompt, all weights, a probe, or nothing.

A prompt is tuned on a frozen backbone; the other methods are the baselines to compare it with. All of them
select on the same rows, predict the same rows, and write the same record. `table.py` lists them.
"""
