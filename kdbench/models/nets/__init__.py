"""The networks for 32-pixel images, as RepDistiller and mdistiller have them."""
