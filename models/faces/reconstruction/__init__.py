"""3DDFA-V3: a face photograph to the coefficients of a 3D morphable model, its landmarks and pose.

Wang et al., "3D Face Reconstruction with the Geometric Guidance of Facial Part Segmentation" (CVPR 2024).
Projection only: nothing is rendered. The morphable model is the user's own file; none is shipped.
"""
