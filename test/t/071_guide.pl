# The statements of docs/guide.md and README.md work as they stand, from top to bottom. In the guide the first line of a block says who runs it: "-- a superuser",
# "-- an admin", "-- a marketer", "-- a reader" or "-- the CRM"; without one it is the same as before. Only the key is put in.

use strict;
use warnings;
use McTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $sim = McTest::Simulator->start;
$sim->post('/_sim/demo');
my $url = $sim->url;
my $node = McTest::Node->start('main', extension => 0);
$node->role($_) for qw(ann mia ron);
my %role = ('a superuser' => 'postgres', 'an admin' => 'ann', 'a marketer' => 'mia', 'a reader' => 'ron', 'the CRM' => 'postgres');
my $role = 'postgres';

# What psql says of a block that is to work: nothing but notices.
sub complaints
{
	my ($sql, %options) = @_;
	return $node->error($sql, %options) =~ s/^.*NOTICE: .*\n//mgr =~ s/^(HINT|LOCATION): .*\n//mgr;
}

my $guide = slurp_file("$McTest::root/docs/guide.md");
my $key = qr/'[0-9a-f]{32}-us6'/;
my $n = 0;
while ($guide =~ /^```sql\n(.*?)^```/msg)
{
	my $sql = $1;
	my $line = 1 + (substr($guide, 0, $-[0]) =~ tr/\n//);
	$role = $role{$1} // BAIL_OUT("line $line: who is $1?") if $sql =~ /^-- (.*)\n/;

	# who may not give an endpoint connects by a server that a superuser made
	$node->query("CREATE SERVER main FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (endpoint '$url'); ALTER SERVER main OWNER TO ann")
		if $sql =~ s/$key/'demo-us1'/;
	is(complaints($sql, as => $role), '', "guide, line $line");
	$n++;
}
cmp_ok($n, '>', 30, 'blocks were found');
is($node->query('SELECT status, emails_sent = recipients AND emails_sent > 0 FROM mc_campaign WHERE campaign_id = 1'), 'sent|t', 'the campaign is sent');

# The ten lines, with the guide's CRM
my ($crm) = $guide =~ /^```sql\n(.*?)^```/ms;
my ($lines) = slurp_file("$McTest::root/README.md") =~ /^```sql\n(.*?)^```/ms;
$lines =~ s/$key/'demo-us1', endpoint => '$url'/ or BAIL_OUT('no key in the README');
$node->query('CREATE DATABASE readme');
$node->query($crm, db => 'readme');
is(complaints($lines, db => 'readme'), '', 'README');
$node->query('CALL mc_run()', db => 'readme');
is($node->query('SELECT status, recipients, emails_sent FROM mc_campaign', db => 'readme'), 'sent|2|2', 'its campaign is sent');

done_testing();
