# Without a worker, the real pg_cron does the work: it calls mc_run every minute, in a session and in a background worker of its own; what
# somebody asks for now is done by that, and the comparisons that are due daily and weekly (R86, R87, N15).

use strict;
use warnings;
use McCrm;
use McTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $pg_config = $ENV{PG_CONFIG} // 'pg_config';
chomp(my $sharedir = `$pg_config --sharedir`);
if (!-e "$sharedir/extension/pg_cron.control")
{
	die "pg_cron is missing: scripts/setup installs it" if ($ENV{CI} // '') eq 'true';
	plan skip_all => 'pg_cron is not installed';
}

my $crm = McCrm->start('main', candidates => 3, demo => { lists => [ { name => 'Customers' }, { name => 'Others' } ] }, conf => <<'CONF');
shared_preload_libraries = 'mailchimp_sync, pg_cron'
cron.database_name = 'postgres'
cron.use_background_workers = on
CONF
my ($node, $sim) = @$crm{qw(node sim)};
my $others = $crm->{demo}{lists}[1]{id};

# of a source of its own, since a comparison brings a contact up to date wherever it is
$crm->ann(q{CREATE TABLE crm.client AS SELECT id, first_name, email FROM crm.candidate;
	SELECT mc_add_source('client', 'crm.client', 'id', 'email', '{"FNAME": "first_name"}');
	SELECT mc_create_audience('others', 'main', 'Others', 'client', 'true', every => '7 days')});
$node->query('CREATE EXTENSION pg_cron; GRANT USAGE ON SCHEMA cron TO max');
is($crm->rita(q{SELECT audience, every FROM mc_audience ORDER BY 1}), "others|7 days\npeople|1 day", 'R86: one is compared daily, one weekly');

# What a job came to, and how many of its runs have ended; of one that waits for another mc_run nothing is said here.
sub runs { my ($job) = @_; return "(SELECT count(*) FROM cron.job_run_details WHERE jobid = $job AND status = 'succeeded')" }

# The first names at Mailchimp, of both lists.
sub names { my ($list) = @_; my %all = $crm->members($list); return join ' ', map { $all{$_}{merge_fields}{FNAME} } sort keys %all }

# A change that no trigger sees: only a comparison can find it.
sub change
{
	my ($name) = @_;
	$node->query("SET session_replication_role = replica; UPDATE crm.candidate SET first_name = '$name' || id;
		UPDATE crm.client SET first_name = '$name' || id");
}

# -----------------------------------------------------------------------------------------------------------------
# R87: now, by a job that is there every minute
# -----------------------------------------------------------------------------------------------------------------

$crm->max(q{SELECT mc_sync_audience('people'), mc_sync_audience('others')});
is($node->query('SELECT count(*) FROM mailchimp_sync.engine() WHERE pid IS NOT NULL'), 0, 'nobody is at work');
my $minutely = $crm->max(q{SELECT cron.schedule('mailchimp', '* * * * *', 'CALL mc_run()')});
$node->wait_until('SELECT ' . runs($minutely) . ' > 0');
is($crm->status . ', ' . $crm->status('others'), 'in_sync 3, in_sync 3', 'R87: pg_cron does what was asked for now');
is(names() . ', ' . names($others), 'F1 F2 F3, F1 F2 F3', 'at Mailchimp, too');
$crm->max(q{SELECT cron.unschedule('mailchimp')});
# a minute may have passed since
$node->wait_until(q{SELECT NOT EXISTS (SELECT FROM cron.job_run_details WHERE status NOT IN ('succeeded', 'failed'))});
is($crm->rita(q{SELECT ok, value FROM mc_status WHERE item = 'worker'}), 'f|not running', 'without a worker');

# -----------------------------------------------------------------------------------------------------------------
# R86: daily and weekly. Jobs of pg_cron that run when the server starts need not be waited for
# -----------------------------------------------------------------------------------------------------------------

my $started;
sub at_start { $started = $crm->max(q{SELECT cron.schedule('at start', '@reboot', 'CALL mc_run()')}) }
at_start();
sub run_after
{
	my ($seconds) = @_;
	my $before = $node->query('SELECT ' . runs($started));
	$crm->later($seconds);
	$node->restart;
	$node->wait_until('SELECT ' . runs($started) . " > $before");
}

change('G');
run_after(80_000);
is(names() . ', ' . names($others), 'F1 F2 F3, F1 F2 F3', 'not before a day has passed');
run_after(8_000);
is(names() . ', ' . names($others), 'G1 G2 G3, F1 F2 F3', 'R86: daily');
change('H');
# in sessions, as pg_cron does by default: it connects like anybody else; and without a library of ours from the start
$node->append_conf('postgresql.conf', "shared_preload_libraries = pg_cron\ncron.use_background_workers = off\ncron.host = '" . $node->host . "'\n");
$crm->max(q{SELECT cron.unschedule('at start')});
$node->restart;
at_start();
run_after(6 * 86_400);
is(names() . ', ' . names($others), 'H1 H2 H3, H1 H2 H3', 'R86: weekly');
is($node->query(q{SELECT string_agg(DISTINCT return_message, ' ') FROM cron.job_run_details WHERE status = 'failed'}), '', 'N15: no run has failed');

$node->stop;
done_testing();
