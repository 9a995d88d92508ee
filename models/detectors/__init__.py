"""Unsupervised detectors on one scale: how unlikely is this row, judged by a reference in which nothing was wrong?"""
