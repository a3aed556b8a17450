# The model test (N1, N5, N8, D10, D12-D16, D20): random steps in the CRM, at Mailchimp and between them; see McModel.pm.
#
#   MODEL_SEED='1 2 3'      other seeds than these
#   MODEL_STEPS=10000       steps of each (default 1000)
#   MODEL_BURST=60          steps between two comparisons (default 125)

use strict;
use warnings;
use McModel;
use Test::More;

my $steps = $ENV{MODEL_STEPS} // 1000;
my $burst = $ENV{MODEL_BURST} // 125;

for my $seed (split ' ', $ENV{MODEL_SEED} // '1 2')
{
	my $model = McModel->new("model$seed", $seed);
	for (my $step = 1; $step <= $steps; $step += $burst)
	{
		my $last = $step + $burst - 1;
		$last = $steps if $last > $steps;
		if (eval { $model->burst($step .. $last); 1 }) { pass("seed $seed: steps $step to $last") }
		else { fail("seed $seed: steps $step to $last"); diag $@; last }
	}
	$model->{node}->stop('immediate', fail_ok => 1);
}
done_testing();
