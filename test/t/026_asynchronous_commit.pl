# Where commits need not reach the disk (synchronous_commit = off), a crash loses the last ones, but not the trace of a
# request that went out: it may have had its effect (design.md "Doubt", N5).

use strict;
use warnings;
use McCrm;
use McTest;
use Test::More;

my $crm = McCrm->start('main', candidates => 1, conf => "synchronous_commit = off\nwal_writer_delay = 10s\n");
my ($node, $sim) = @$crm{qw(node sim)};

$crm->sync;
$crm->ann("UPDATE crm.candidate SET first_name = 'Changed' WHERE id = 1");
$node->query('CHECKPOINT');
my $session = $node->session(as => 'max');
$sim->hold(method => 'POST', path => '^/lists/[^/]+$', when => 'before');
McTest::begin($session, 'CALL mc_run();');
$sim->wait_held;
$node->stop('immediate');
$sim->release;
eval { $session->quit };
$node->start;
is($node->query('SELECT kind FROM mailchimp_sync.inflight'), 'push', 'the request is known after the crash');
$crm->run;
is($crm->state(1), 'in_sync|', 'and the change arrives');
is($crm->shown('c1@crm.test'), 'subscribed|Changed|g1', 'with its value');

done_testing();
