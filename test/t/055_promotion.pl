# Nothing runs on a standby; promoted, it goes on where the primary was (design.md rule 5: what was under way are ghosts).

use strict;
use warnings;
use McPeople;
use McTest;
use Test::More;

my $sim = McTest::Simulator->start;
$sim->post('/_sim/demo');
my $primary = McTest::Node->start('primary', extension => 0, init => { allows_streaming => 1 },
	conf => "mailchimp_sync.databases = 'one'\nhot_standby = on\n");
$primary->query('CREATE DATABASE one');
my $people = McPeople->new($primary, $sim, db => 'one');
$people->sync;
$people->wait_in_step;

$primary->backup('base');
my $standby = McTest::Node->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
my $there = $people->at(node => $standby);

# The primary is lost while a request is out.
$sim->hold(method => 'POST', path => '^/lists/[^/]+$', when => 'before');
$people->ann("UPDATE crm.person SET first_name = 'Held' WHERE id = 1");
$sim->wait_held;
$primary->wait_for_catchup($standby);
is($there->super('SELECT count(*) FROM mailchimp_sync.inflight WHERE doubt_at IS NULL'), 1, 'the standby has it all');
is($standby->query("SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'mailchimp_sync%'"), 0, 'but runs nothing');
is($there->mia("SELECT ok, value, detail FROM mc_status WHERE item = 'worker'"), 'f|not running|this server is a standby; after a promotion it starts',
	'mc_status says so');
like($standby->error('CALL mc_run()', db => 'one', as => 'mia'), qr/25006: cannot execute CALL mc_run\(\) during recovery/, 'mc_run does not either');
like($standby->error('SELECT mc_start_worker()', db => 'one', as => 'ann'), qr/25006: /, 'nor can it be started');

$primary->stop('immediate');
$standby->promote;
$there->wait_worker;
is($there->super('SELECT count(*) FROM mailchimp_sync.inflight WHERE doubt_at IS NOT NULL'), 1, 'what was under way is in doubt');
$there->ann("UPDATE crm.person SET first_name = 'Promoted' WHERE id = 1; UPDATE crm.person SET first_name = 'Too' WHERE id = 2");
$there->wait_in_step;
pass('promoted, it goes on by itself');
$sim->release;
McTest::poll('the old request lands', sub { $there->names =~ /1=Held/ });
$there->later(140);
$there->wait_in_step;
is($there->names, '1=Promoted 2=Too 3=Name3', 'a request of the lost primary that landed late is put right');
is($there->super('SELECT count(*) FROM mailchimp_sync.inflight'), 0, 'nothing is left over');

$standby->stop;
done_testing();
